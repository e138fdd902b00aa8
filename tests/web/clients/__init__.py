"""Clients of other servers, by their own code: those that the test extras leave out, in environments of their own."""
