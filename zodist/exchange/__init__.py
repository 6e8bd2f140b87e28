"""Who works with whom, and what they tell each other."""
