"""What passes share: walking, rewriting and naming in Relax."""
