"""Attacks on the real messages: scores in, lower bounds on epsilon out, and gates that catch a broken mechanism."""
