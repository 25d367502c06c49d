"""DL/T 645-2007 and DL/T 645-1997: frame, framer, control codes, messages, items and session."""
