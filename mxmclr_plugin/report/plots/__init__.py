"""The plots, pure: data in, matplotlib's figure out, in the light colours of the palette."""
