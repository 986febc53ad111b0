"""From generated text to stream events: pure code that every engine shares."""
