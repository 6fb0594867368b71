"""Whisper tiny.en in codebooks: from somebody else's weights to text."""
