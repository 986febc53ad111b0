"""What is known of each model from how its answers went: profiles, priors, the scoreboard."""
