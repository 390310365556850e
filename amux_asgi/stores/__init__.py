"""The ports made real: where money, keys and answers are kept."""
