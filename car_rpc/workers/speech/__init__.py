"""Speech to text: audio files read by libsndfile, resampled by soxr, decoded by pocketsphinx."""
