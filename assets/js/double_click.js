// Ignores the second half of a double click on a button that starts something (class "once"),
// and on a button that has moved below the pointer since the first half.
() => () => {
  let first = null;
  document.addEventListener('click', (event) => {
    const button = event.target.closest('button');
    if (event.detail < 2) first = button;
    else if (button && (button !== first || button.matches('.once'))) event.stopImmediatePropagation();
  }, true);
}
