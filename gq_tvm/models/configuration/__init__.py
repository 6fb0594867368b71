"""What a training is told: its settings, from TOML files and the command line."""
