// Opens the tab that the address names, or the first one.
({tabs}) => () => {
  window.reopened = true;  // from now on it is a person who changes tabs
  return {__type__: 'update', selected: tabs.find((tab) => '#' + tab === location.hash) || 'teach'};
}
