"""Losses at points near the weights, which are never written."""
