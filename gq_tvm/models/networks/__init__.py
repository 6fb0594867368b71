"""The networks of recognisers and their losses."""
