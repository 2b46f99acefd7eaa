"""Real experience: episodes, and the replay on disk that holds them."""
