"""A pretrained model, ready to be perturbed."""
