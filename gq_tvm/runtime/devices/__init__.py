"""Where compiled code runs: this process, boards, emulated boards."""
