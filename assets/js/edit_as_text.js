// Text of a conversation is inert for Gradio's Chatbot as entities (`chatbot_messages.escaped`). Its editor would show
// them as they are written, and once edited it would show a message as HTML until the server has returned it. So an
// editor that opens gets the text as a person wrote it, and it is entities again before any button is pressed.
const sides = document.getElementById('chat-sides');
const editors = new Set();

const write = (box, text) => {
  box.value = text;
  box.dispatchEvent(new Event('input', {bubbles: true}));
};
const asText = (box) => write(box, box.value.replaceAll('&lt;', '<').replace(/&amp;(?=[#\w])/g, '&'));
const asEntities = (box) => write(box, box.value.replace(/&(?=[#\w])/g, '&amp;').replaceAll('<', '&lt;'));

const open = () => {
  for (const box of editors) if (!box.isConnected) editors.delete(box);
  sides.querySelectorAll('.edit-textarea').forEach((box) => {
    if (editors.has(box)) return;
    editors.add(box);
    asText(box);
  });
};

new MutationObserver(open).observe(sides, {childList: true, subtree: true});
document.addEventListener('click', (event) => {
  if (!event.target.closest?.('#chat-sides button')) return;
  const pressed = [...editors].filter((box) => box.isConnected);
  pressed.forEach(asEntities);
  setTimeout(() => pressed.filter((box) => box.isConnected).forEach(asText));  // the button ended no edit
}, true);
