"""What makes machine code on any machine: compiler, linker, what they read and write."""
