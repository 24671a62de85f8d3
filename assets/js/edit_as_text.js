// Gradio's Chatbot shows an edited message as HTML until the server has returned it.
// This makes it text from the first moment on.
document.addEventListener('click', (event) => {
  if (!event.target.closest?.('#chat-sides button')) return;
  document.querySelectorAll('#chat-sides .edit-textarea').forEach((box) => {
    box.value = box.value.replaceAll('<', '&lt;');
    box.dispatchEvent(new Event('input', {bubbles: true}));
  });
}, true);
