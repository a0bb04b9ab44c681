"""The commands of the program, one file per command."""
