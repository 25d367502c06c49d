"""Tests of the concentrator codec."""
