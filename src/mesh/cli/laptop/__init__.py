"""Laptop mode: a whole mesh on one machine, ended by one Ctrl-C."""
