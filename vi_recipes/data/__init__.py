"""Files and rows that become a model's arguments."""
