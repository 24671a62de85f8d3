// A list of votes (gr.HTML with the event `retract`). The button of a vote asks "sure?" first; a second click takes the
// vote back.
let armed = null;

const disarm = () => {
  if (armed) {
    armed.textContent = armed.dataset.calm;
    armed.classList.remove('armed');
  }
  armed = null;
};

element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-event]');
  if (!button || event.detail > 1 || button.disabled) return;  // the second half of a double click confirms nothing
  if (armed !== button) {
    disarm();
    armed = button;
    button.dataset.calm = button.textContent;
    button.textContent = button.dataset.sure;
    button.classList.add('armed');
    return;
  }
  armed = null;
  button.disabled = true;
  trigger('retract', {event: button.dataset.event, retract: button.dataset.retract});
});
element.addEventListener('focusout', disarm);
watch('value', () => { armed = null; });
