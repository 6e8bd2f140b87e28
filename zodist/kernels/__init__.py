"""Fast forms of zodist.noise, one file per kind of device; each gives the reference's bits."""
