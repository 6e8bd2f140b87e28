"""Models that are held in parts: a group of workers has one copy of the weights between them."""
