// Light or dark: the system's, or what was chosen on this page, which the browser remembers.

const KEY = "rproxy-theme";

/** Set it, and call `changed` whenever colours change. */
export function startTheme(changed) {
  const select = document.getElementById("theme");
  const apply = () => {
    if (select.value) document.documentElement.dataset.theme = select.value;
    else delete document.documentElement.dataset.theme;
    changed();
  };
  select.value = remembered();
  select.addEventListener("change", () => {
    remember(select.value);
    apply();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
  apply();
}

// A browser may refuse to keep anything for a page; then the choice lasts as long as the page.
function remembered() {
  try {
    return localStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

function remember(value) {
  try {
    localStorage.setItem(KEY, value);
  } catch {
    // See above.
  }
}
