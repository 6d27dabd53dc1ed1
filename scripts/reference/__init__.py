"""The reference pages of docs/, each from the code it is about. Written by build_reference.py."""
