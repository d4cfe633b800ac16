"""Fakes and fixtures for tests, typed and documented: use them before mocks."""
