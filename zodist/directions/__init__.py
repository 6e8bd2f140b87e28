"""What a seed means for one parameter."""
