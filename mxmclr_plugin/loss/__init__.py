"""The multifold hybrid loss, and the losses it is compared with."""
