"""Tuning: the fastest schedules of products, found here, on a board, or by a model of one."""
