"""The worker: one process per workspace that owns the model. `client` is the handle on it; the other modules are its
inside.

protocol   what both ends of the connection agree on
client     `Worker`, the handle for pages and scripts
server     the listener, and the answers that need no model
requests   what is passed from the listener to the thread that owns the model
model_owner, chats   that thread: it trains, and answers chats between micro-batches
"""
