// Opens the tab that the address names whenever the address changes: the browser's back button, or one that was typed.
() => () => {
  window.addEventListener('popstate', () => document.getElementById('reopen')?.click());
}
