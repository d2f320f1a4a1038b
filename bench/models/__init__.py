"""Recommenders: our own, and RecBole's behind one adapter."""
