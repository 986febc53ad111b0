"""What requests cost, and what they may cost: prices, limits, reservations."""
