"""The vote card: what the browser does with a question."""

import gradio as gr


class Card(gr.HTML):
    """A question with its buttons. Its value is what the browser shows: run, query, the id of the event that an answer becomes, and HTML.

    All of it changes in one motion and comes back with the answer, so that no answer is taken for one to another question.
    """

    def __init__(self, value: dict | None = None, **options):
        super().__init__(value=value or {"run": "", "query": "", "event": "", "html": ""}, html_template="${value.html}",
                         js_on_load=ANSWER, apply_default_css=False, **options)

    def api_info(self):
        return {"type": "object"}


ANSWER = """
let shown = 0, sent = {turn: '', time: 0, focus: ''}, pressed = {key: '', time: 0}, later = [], drafts = {};
const turn = () => props.value.event + (props.value.time || '');
const start = () => { shown = element.checkVisibility() ? performance.now() : 0; };
new IntersectionObserver(([seen]) => { if (seen.isIntersecting && !shown) start(); }).observe(element);

const answer = (choice, source) => {
  const now = performance.now();
  if (sent.turn === turn() && now - sent.time < 5000) {
    // A click while another is on its way is not meant for the next question; a remark is about the one that stays.
    if (choice.includes(':')) later.push([choice, source]);
    return;
  }
  sent = {turn: turn(), time: now, focus: source.id};
  source.classList.add('chosen');
  trigger('vote', {choice, seconds: shown ? (now - shown) / 1000 : 0});
};
const unfold = (place, open) => {
  const form = element.querySelector(`#edit-form-${place}`);
  form.hidden = !open;
  element.querySelector(`#edit-${place}`).setAttribute('aria-expanded', String(open));
  return form.querySelector('textarea');
};
element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button || event.detail > 1) return;  // the second half of a double click
  if (button.dataset.choice) return answer(button.dataset.choice, button);
  if (!button.dataset.edit) return;
  const place = button.dataset.edit, open = element.querySelector(`#edit-form-${place}`).hidden;
  const field = unfold(place, open);
  if (open) drafts[place] = field.value;
  else delete drafts[place];
  (open ? field : element.querySelector(`#edit-${place}`)).focus();
});
element.addEventListener('input', (event) => {
  const form = event.target.closest('form.edit');
  if (form) drafts[form.dataset.place] = event.target.value;
});
element.addEventListener('change', (event) => {
  const place = event.target.dataset.score;
  if (!place) return;
  const value = event.target.value || event.target.querySelector('[selected]')?.value;  // none: the score that is there is taken back
  if (value) answer(`score:${place}:${value}`, event.target);
});
element.addEventListener('submit', (event) => {
  event.preventDefault();
  const place = event.target.dataset.place;
  delete drafts[place];
  answer(`edit:${place}:${event.target.querySelector('textarea').value}`, element.querySelector(`#edit-${place}`));
});

const press = (event) => {
  if (!element.isConnected) return document.removeEventListener('keydown', press);
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || !element.checkVisibility()) return;
  if (event.target.closest?.('input, textarea, select, [contenteditable]')) return;
  const key = /^(Digit|Numpad)[1-9]$/.test(event.code) ? event.code.at(-1)
    : {ArrowLeft: '1', ArrowRight: '2'}[event.key] || event.key.toLowerCase();
  if (event.key.startsWith('Arrow') && element.querySelectorAll('.answer').length !== 2) return;  // left and right are of two
  const button = [...element.querySelectorAll('button[data-key]')].find((found) => found.dataset.key === key);
  if (!button) return;
  event.preventDefault();
  const twice = key === pressed.key && event.timeStamp - pressed.time < 200;  // when it was pressed: a busy browser hears of it late
  pressed = {key, time: event.timeStamp};
  if (!twice) button.click();
};
document.addEventListener('keydown', press);

// A remark was noted, and the card drawn anew: what is being written stays open, and what was said meanwhile follows.
const noted = () => {
  if (sent.focus) element.querySelector(`#${sent.focus}`)?.focus();
  for (const place in drafts) {
    const field = unfold(place, true);
    field.value = drafts[place];
    if (!later.length) field.focus();
  }
  const next = later.shift();
  if (next) answer(next[0], element.querySelector(`#${next[1].id}`) || next[1]);
};
let current = props.value.event, query = props.value.query;
watch('value', () => {
  element.querySelectorAll('.chosen').forEach((button) => button.classList.remove('chosen'));
  if (props.value.event === current) return void (later = []);
  current = props.value.event;
  if (props.value.query === query) return noted();
  later = [], drafts = {};
  query = props.value.query;
  start();
  if (shown && element.getBoundingClientRect().top < 0) element.scrollIntoView();
});
"""
