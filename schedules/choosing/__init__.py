"""Which kernel family and schedule a product gets: measured, modelled, and on how many threads."""
