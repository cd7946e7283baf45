"""Chats: short requests that API processes send to runners with a loaded model, and the tokens that come back.

The database records which attempts serve a model; requests and replies travel through Redis and may be lost.
"""
