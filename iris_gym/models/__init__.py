"""The three learned components: tokenizer, world model and actor-critic. None of them knows another."""
