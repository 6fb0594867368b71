"""What a user gives to compile, read and checked."""
