// Shows the OpenAPI document of this server. All that comes from outside becomes text, never markup.
"use strict";

const METHODS = ["get", "head", "post", "put", "patch", "delete"];

function element(name, ...children) {
  const made = document.createElement(name);
  made.append(...children);
  return made;
}

function classed(name, text, className) {
  const made = element(name, text);
  made.className = className;
  return made;
}

function resolved(schema, shared) {
  return schema.$ref ? shared[schema.$ref.split("/").pop()] : schema;
}

// The schema with what it refers to in place, each of those once on the way down.
function expanded(schema, shared, above = []) {
  if (Array.isArray(schema)) return schema.map((one) => expanded(one, shared, above));
  if (schema === null || typeof schema !== "object") return schema;
  if (typeof schema.$ref === "string") {
    const name = schema.$ref.split("/").pop();
    return above.includes(name) ? name : expanded(resolved(schema, shared), shared, [...above, name]);
  }
  const entries = Object.entries(schema).map(([key, value]) => [key, expanded(value, shared, above)]);
  return Object.fromEntries(entries);
}

function kind(schema) {
  if (schema.anyOf) return schema.anyOf.map(kind).join(" or ");
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.type === "array") return `array of ${kind(schema.items || {})}`;
  return schema.format || schema.type || "any";
}

function table(heads, rows) {
  const body = rows.map((row) => element("tr", ...row.map((cell) => element("td", cell))));
  return element("table", element("tr", ...heads.map((head) => element("th", head))), ...body);
}

function parameters(operation) {
  if (!operation.parameters.length) return [];
  const rows = operation.parameters.map((one) => [
    element("code", one.name),
    `${one.in}${one.required ? ", required" : ""}`,
    kind(one.schema),
    one.description || "",
  ]);
  return [element("h3", "Parameters"), table(["name", "in", "type", ""], rows)];
}

function shown(title, content, shared) {
  const schema = content?.["application/json"]?.schema;
  if (!schema) return [];
  const text = JSON.stringify(expanded(schema, shared), null, 2);
  return [element("details", element("summary", title), element("pre", element("code", text)))];
}

function answers(operation, shared) {
  return Object.entries(operation.responses).flatMap(([status, answer]) => {
    const title = `${status} ${answer.description}`;
    const parts = status < "300" ? shown(title, answer.content, shared) : [];
    return parts.length ? parts : [element("div", title)];
  });
}

function described(path, method, operation, shared) {
  const head = element(
    "summary",
    classed("span", method.toUpperCase(), "method"),
    element("code", path),
    classed("span", operation.summary, "summary"),
  );
  const body = shown("Body", operation.requestBody?.content, shared);
  return element(
    "details", head, element("p", operation.description), ...parameters(operation), ...body,
    element("h3", "Answers"), ...answers(operation, shared),
  );
}

function operationsOf(api, tag) {
  return Object.entries(api.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]?.tags.includes(tag))
      .map((method) => described(path, method, item[method], api.components.schemas)));
}

function show(api) {
  const sections = api.tags.map((tag) =>
    element("section", element("h2", tag.name), ...operationsOf(api, tag.name)));
  document.getElementById("operations").replaceChildren(...sections);
}

async function fetched(key) {
  const answer = await fetch("openapi.json", { headers: { Authorization: `Bearer ${key}` }, cache: "no-store" });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error?.message || `the server answers ${answer.status}`);
  return found;
}

async function asked(event) {
  event.preventDefault();
  const told = document.getElementById("told");
  try {
    const api = await fetched(document.getElementById("key").value.trim());
    show(api);
    told.textContent = `${api.info.title} ${api.info.version}`;
    told.className = "";
  } catch (error) {
    told.textContent = error.message;
    told.className = "wrong";
  }
}

if (typeof document !== "undefined") document.getElementById("ask").addEventListener("submit", asked);
