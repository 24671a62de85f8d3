// The vote card (gr.HTML with the event `vote`): buttons, keys and forms of a question. `props.value` is the value of
// `Card` in Python: {run, query, event, html}, and `time` where the server has refused an answer.
// An answer is sent as {choice, seconds}.
const DOUBLE_PRESS = 200;  // milliseconds within which a key pressed again is no second vote
const ON_ITS_WAY = 5000;  // milliseconds for which an answer may be under way

let shownAt = 0;  // since when the question is in sight; 0 before that
let sent = {turn: '', time: 0, focus: '', annotation: false};
let pressed = {key: '', time: 0};
let waiting = [];  // what is to be sent after the annotation that is under way
let drafts = {};  // number of an answer -> text of the edit that is open

const turn = () => props.value.event + (props.value.time || '');
const startClock = () => { shownAt = element.checkVisibility() ? performance.now() : 0; };
new IntersectionObserver(([entry]) => { if (entry.isIntersecting && !shownAt) startClock(); }).observe(element);

// An annotation ("up:2", "score:2:5", "edit:2:...") is about one answer, and the question stays. Any other choice answers
// the question. `rlhf_engine/feedback/choices.py` lists all choices.
const isAnnotation = (choice) => choice.includes(':');

const answer = (choice, source) => {
  const now = performance.now();
  if (sent.turn === turn() && now - sent.time < ON_ITS_WAY) {
    // A click while another is on its way is not meant for the next question. An annotation still is about this one,
    // and so is whatever follows an annotation.
    if (isAnnotation(choice) || sent.annotation) waiting.push([choice, source]);
    return;
  }
  sent = {turn: turn(), time: now, focus: source.id, annotation: isAnnotation(choice)};
  source.classList.add('chosen');
  trigger('vote', {choice, seconds: shownAt ? (now - shownAt) / 1000 : 0});
};

const formOf = (number) => element.querySelector(`#edit-form-${number}`);
const editButton = (number) => element.querySelector(`#edit-${number}`);

const openForm = (number, open) => {
  const form = formOf(number);
  form.hidden = !open;
  editButton(number).setAttribute('aria-expanded', String(open));
  return form.querySelector('textarea');
};

element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button || event.detail > 1) return;  // the second half of a double click
  if (button.dataset.choice) return answer(button.dataset.choice, button);
  if (!button.dataset.edit) return;
  const number = button.dataset.edit, open = formOf(number).hidden;
  const field = openForm(number, open);
  if (open) drafts[number] = field.value;
  else delete drafts[number];
  (open ? field : editButton(number)).focus();
});

element.addEventListener('input', (event) => {
  const form = event.target.closest('form.edit');
  if (form) drafts[form.dataset.place] = event.target.value;
});

element.addEventListener('change', (event) => {
  const number = event.target.dataset.score;
  if (!number) return;
  // Without a new score, the old one is sent again, which takes it back.
  const value = event.target.value || event.target.querySelector('[selected]')?.value;
  if (value) answer(`score:${number}:${value}`, event.target);
});

element.addEventListener('submit', (event) => {
  event.preventDefault();
  const number = event.target.dataset.place;
  delete drafts[number];
  answer(`edit:${number}:${event.target.querySelector('textarea').value}`, editButton(number));
});

const keyOf = (event) => {
  if (/^(Digit|Numpad)[1-9]$/.test(event.code)) return event.code.at(-1);
  return {ArrowLeft: '1', ArrowRight: '2'}[event.key] || event.key.toLowerCase();
};

// Whether a key is meant for the field that has the focus. The list of a score keeps the focus when a score has been
// chosen, and a digit would choose another one: there only the arrows, and the keys that open the list, are its own.
const belongsToField = (event) => {
  const field = event.target.closest?.('input, textarea, select, [contenteditable]');
  if (!field) return false;
  if (field.matches('input[type=checkbox], input[type=radio], input[type=range]')) return event.key.startsWith('Arrow');
  const score = field.matches('select[data-score]') && !isOpen(field);
  return !score || event.key.startsWith('Arrow');
};

const isOpen = (select) => {
  try {
    return select.matches(':open');
  } catch {  // a browser that does not know the word
    return false;
  }
};

const press = (event) => {
  if (!element.isConnected) return document.removeEventListener('keydown', press, true);
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || !element.checkVisibility()) return;
  if (belongsToField(event)) return;
  // Left and right need two answers.
  if (event.key.startsWith('Arrow') && element.querySelectorAll('.answer').length !== 2) return;
  const key = keyOf(event);
  const button = [...element.querySelectorAll('button[data-key]')].find((candidate) => candidate.dataset.key === key);
  if (!button) return;
  event.preventDefault();
  // `timeStamp` is when the key went down: a busy browser calls this function later.
  const twice = key === pressed.key && event.timeStamp - pressed.time < DOUBLE_PRESS;
  pressed = {key, time: event.timeStamp};
  if (!twice) button.click();
};
document.addEventListener('keydown', press, true);

// An annotation was stored, and the same question is drawn anew: open edits stay open, and the next annotation that
// waits is sent.
const reopenDrafts = () => {
  for (const number in drafts) {
    if (!formOf(number)) continue;
    const field = openForm(number, true);
    field.value = drafts[number];
    if (!waiting.length) field.focus();
  }
};

const afterAnnotation = () => {
  if (sent.focus) element.querySelector(`#${sent.focus}`)?.focus();
  reopenDrafts();
  const next = waiting.shift();
  if (next) answer(next[0], element.querySelector(`#${next[1].id}`) || next[1]);
};

let currentEvent = props.value.event, currentQuery = props.value.query;
watch('value', () => {
  element.querySelectorAll('.chosen').forEach((button) => button.classList.remove('chosen'));
  if (props.value.event === currentEvent) {  // the answer was refused
    waiting = [];
    reopenDrafts();
    return;
  }
  currentEvent = props.value.event;
  if (props.value.query === currentQuery) return afterAnnotation();
  waiting = [];
  drafts = {};
  currentQuery = props.value.query;
  startClock();
  if (shownAt && element.getBoundingClientRect().top < 0) element.scrollIntoView();
});
