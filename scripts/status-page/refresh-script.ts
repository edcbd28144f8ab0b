/**
 * The script of the status page. It asks for the page again and puts in the parts that differ; while the page is hidden it asks for nothing. A part in which
 * text is being selected is left until that ends. It is kept as text, since its hash stands in the content security policy.
 */
export const refreshScript = `
"use strict";
(() => {
  const milliseconds = Number(document.documentElement.dataset.refresh) * 1000;
  const lost = document.getElementById("lost");
  let timer;
  let asking = false;
  let heardAt = new Date();

  const isSelected = (part) => {
    const selection = document.getSelection();
    return selection !== null && !selection.isCollapsed && selection.containsNode(part, true);
  };

  const take = (text) => {
    const fresh = new DOMParser().parseFromString(text, "text/html");
    document.title = fresh.title;
    for (const part of fresh.querySelectorAll("[data-part]")) {
      const shown = document.getElementById(part.id);
      if (shown === null || shown.outerHTML === part.outerHTML || isSelected(shown)) continue;
      const focused = shown.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
      shown.replaceWith(document.adoptNode(part));
      if (focused !== null) part.querySelector("a[href='" + CSS.escape(focused) + "']")?.focus();
    }
  };

  const ask = async () => {
    if (asking || document.visibilityState === "hidden") return;
    clearTimeout(timer);
    asking = true;
    try {
      const answer = await fetch("/", { cache: "no-store", redirect: "error" });
      if (!answer.ok) throw new Error("status " + answer.status);
      take(await answer.text());
      heardAt = new Date();
      lost.hidden = true;
    } catch {
      if (lost.hidden) lost.textContent = "This page gets no answer any more. What it shows is from " + heardAt.toISOString().slice(11, 19) + " UTC.";
      lost.hidden = false;
    } finally {
      asking = false;
      timer = setTimeout(ask, milliseconds);
    }
  };

  document.addEventListener("visibilitychange", ask);
  timer = setTimeout(ask, milliseconds);
})();
`;
