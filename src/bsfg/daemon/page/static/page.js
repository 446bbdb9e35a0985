// Keeps the page as the gateway is: replaces the sections that changed, and draws the charts. Everything else is HTML.
"use strict";

(() => {
  const SILENCE_MILLISECONDS = 15000;
  const NOTICE_MILLISECONDS = 10000;
  const charts = { rate: null, lag: null, backlog: null };
  const live = document.getElementById("live");
  const words = document.getElementById("live-words");
  let source = null;
  let heardAt = 0;
  let isOver = false;
  let shown = "";

  function tell(state, text) {
    if (live.dataset.state !== state || words.textContent !== text) {
      live.dataset.state = state;
      words.textContent = text;
    }
  }

  function replaceParts(parts) {
    for (const [name, html] of Object.entries(parts)) {
      const part = document.getElementById("part-" + name);
      if (part === null) continue;
      const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
      const list = part.querySelector(".timeline");
      const top = list === null ? 0 : list.scrollTop;
      part.innerHTML = html;
      if (list !== null && part.querySelector(".timeline") !== null) part.querySelector(".timeline").scrollTop = top;
      if (focused !== "" && document.getElementById(focused) !== null) document.getElementById(focused).focus();
    }
  }

  // Charts.

  const palette = ["--accent", "--busy", "--cut", "--bad", "--good", "--unknown"];
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function amount(value) {
    if (value >= 1e6) return (value / 1e6).toFixed(1) + "M";
    if (value >= 1e4) return Math.round(value / 1e3) + "k";
    return String(Math.round(value * 10) / 10);
  }

  function make(key, peers, box) {
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    const clock = (seconds) => new Date(seconds * 1000).toISOString().slice(11, 19);
    return new uPlot({
      width: box.clientWidth, height: 108, cursor: { show: false }, legend: { show: false }, padding: [8, 28, 0, 0],
      scales: { y: { range: (self, low, high) => [0, Math.max(1, (high || 0) * 1.15)] } },
      axes: [
        { ...axis, space: 90, size: 26, values: (self, ticks) => ticks.map(clock) },
        { ...axis, space: 32, size: 46, values: (self, ticks) => ticks.map(amount) },
      ],
      series: [{}, ...peers.map((peer, index) => ({
        stroke: colour(palette[index % palette.length]), width: 2, points: { show: false }, spanGaps: false,
        fill: peers.length === 1 ? colour(palette[0]) + "22" : undefined,
      }))],
    }, [[], ...peers.map(() => [])], box);
  }

  function legend(peers) {
    const place = document.getElementById("legend");
    place.replaceChildren(...peers.map((peer, index) => {
      const entry = document.createElement("span");
      const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      bar.setAttribute("width", "100%");
      bar.setAttribute("height", "100%");
      bar.setAttribute("fill", colour(palette[index % palette.length]));
      svg.append(bar);
      entry.append(svg, peer);
      return entry;
    }));
  }

  function gathered(all, key) {
    const sum = [];
    all[0][key].forEach((_, index) => {
      const values = all.map((lines) => lines[key][index]);
      const isKnown = values.every((value) => value !== null);
      sum.push(isKnown ? values.reduce((one, other) => one + other, 0) : null);
    });
    return sum;
  }

  function draw(series) {
    const names = Object.keys(series.peers);
    const isCrowded = names.length > palette.length;
    const peers = isCrowded ? ["all peers"] : names;
    if (names.length === 0) return;
    const look = peers.join(" ") + colour("--ground");
    for (const key of Object.keys(charts)) {
      const box = document.getElementById("chart-" + key);
      if (look !== shown || charts[key] === null) {
        if (charts[key] !== null) charts[key].destroy();
        charts[key] = make(key, peers, box);
      }
      const lines = isCrowded ? [gathered(Object.values(series.peers), key)] : names.map((name) => series.peers[name][key]);
      charts[key].setData([series.times, ...lines]);
    }
    if (look !== shown) legend(peers);
    shown = look;
  }

  function fit() {
    for (const [key, chart] of Object.entries(charts)) {
      const box = document.getElementById("chart-" + key);
      if (chart !== null && box.clientWidth > 0) chart.setSize({ width: box.clientWidth, height: 108 });
    }
  }

  // The stream of events. A browser reconnects by itself after a lost connection, and not after a refusal; so a watch
  // of our own begins anew whenever nothing was heard for long.

  function heard() {
    heardAt = Date.now();
    tell("on", "live");
  }

  function listen() {
    if (source !== null) source.close();
    source = new EventSource("/page/events");
    source.onopen = heard;
    source.addEventListener("parts", (event) => { heard(); replaceParts(JSON.parse(event.data)); });
    source.addEventListener("series", (event) => { heard(); draw(JSON.parse(event.data)); });
    source.addEventListener("ended", () => {
      isOver = true;
      source.close();
      tell("lost", "the session has ended: log in again");
    });
    source.onerror = () => tell("lost", "connection lost; what is shown is old");
  }

  setInterval(() => {
    if (isOver || document.hidden) return;
    if (Date.now() - heardAt < SILENCE_MILLISECONDS) return;
    tell("lost", "connection lost; what is shown is old");
    if (source === null || source.readyState !== EventSource.CONNECTING) listen();
  }, 3000);

  // What was done is said for a while; a page that stays open must not say it when it is long undone.
  setTimeout(() => { for (const notice of document.querySelectorAll(".notice")) notice.remove(); }, NOTICE_MILLISECONDS);

  new ResizeObserver(fit).observe(document.querySelector(".charts"));
  heardAt = Date.now();
  listen();
})();
