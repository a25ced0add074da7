"""What stands in the folder that is reported on, typed."""
