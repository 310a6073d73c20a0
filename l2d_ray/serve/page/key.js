// The dialog for the API key, where the service asks for one.

import { byId } from "./dom.js";

const TEXT = "This service answers with a key. It stays in this tab and is gone when the tab is closed.";

/** Resolves to the key that was typed, or to null. `reason`: why the last one was not taken, if there was one. */
export function askForKey(reason) {
  const dialog = byId("key-dialog");
  const field = byId("key");
  byId("key-button").hidden = false;
  byId("key-text").textContent = reason ?? TEXT;
  field.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  byId("key-cancel").onclick = () => dialog.close("");
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "given" ? field.value.trim() : null), { once: true });
  });
}
