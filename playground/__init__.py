"""The playground: a Gradio page over the engine. It reads run folders and talks to the worker; it imports no torch."""
