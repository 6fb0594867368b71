"""What runs models, in C++: in programs of its own, in any that link it, and in Python."""
