/**
 * The output of `make test`: a line per file when it ends, with one for each test in it that failed, and at the end
 * each failure in full and the totals.
 *
 * node:test emits test:complete when a test ends, and the other events in the order in which the files were named:
 * the results of a file are held back until the files before it have ended. A file is a test too, on line 1.
 */

import { relative, resolve } from 'node:path';
import type { TestEvent } from 'node:test/reporters';
import { inspect } from 'node:util';

type Data<Type extends TestEvent['type']> = Extract<TestEvent, { type: Type }>['data'];
type Failed = Data<'test:fail'>;
type Completed = Data<'test:complete'>;

/** What node:test counts, by the names in its last diagnostics, which belong to no file: tests, pass, fail ... */
type Totals = Map<string, number>;

/** A reporter for `node --test --test-reporter`. */
export default async function* report(events: AsyncIterable<TestEvent>): AsyncGenerator<string, void> {
  /** The names of the tests that the current one is in. */
  const names: string[] = [];
  const failures: string[] = [];
  /** What files print, and the diagnostics of their tests, by path. They are printed only where something fails. */
  const outputs = new Map<string, string>();
  const failedFiles = new Set<string>();
  /** What failed in files that have not ended yet, a line each, by path. */
  const briefs = new Map<string, string>();
  const skips = new Map<string, number>();
  const totals: Totals = new Map();
  const addOutput = (file: string, text: string) => {
    outputs.set(resolve(file), (outputs.get(resolve(file)) ?? '') + text);
  };

  for await (const { type, data } of events) {
    switch (type) {
      case 'test:complete': {
        const { file = '' } = data;
        if (isFailure(data) && !isFile(data)) {
          briefs.set(file, (briefs.get(file) ?? '') + formatBrief(data));
        }
        if (!isFile(data)) break;
        if (data.details.error !== undefined) failedFiles.add(file);
        yield formatFile(data) + (briefs.get(file) ?? '');
        briefs.delete(file);
        break;
      }
      case 'test:start':
        names.splice(data.nesting, Number.POSITIVE_INFINITY, data.name);
        break;
      case 'test:pass':
        if (typeof data.skip === 'string') skips.set(data.skip, (skips.get(data.skip) ?? 0) + 1);
        break;
      case 'test:fail':
        if (!isFailure(data)) break;
        failures.push(formatFailure(names.slice(0, data.nesting + 1), data));
        // The file of a test may be one of test/support.
        failedFiles.add(data.file ?? '');
        break;
      case 'test:diagnostic':
        if (data.file === undefined) addTotal(totals, data.message);
        else addOutput(data.file, `# ${data.message}\n`);
        break;
      case 'test:stdout':
      case 'test:stderr':
        addOutput(data.file, data.message);
        break;
    }
  }

  for (const [index, failure] of failures.entries()) yield `\n${index + 1}. ${failure}`;
  for (const file of failedFiles) {
    const output = outputs.get(file);
    if (output !== undefined) yield `\nOutput of ${relative('', file)}:\n${indent(output)}`;
  }
  yield '\n';
  for (const [reason, count] of skips) yield `skipped ${count}: ${reason}\n`;
  yield formatTotals(totals);
}

function isFile(data: Completed): boolean {
  return data.nesting === 0 && data.line === 1 && data.file !== undefined && resolve(data.name) === data.file;
}

/** The parents of a test that fails fail too. */
function isFailure({ details, todo }: Failed | Completed): boolean {
  if (details.error === undefined) return false;
  const { failureType } = details.error as { failureType?: string };
  return failureType !== 'subtestsFailed' && (todo === undefined || todo === false);
}

function formatFile({ file = '', details }: Completed): string {
  const seconds = (details.duration_ms / 1000).toFixed(1).padStart(6);
  return `${details.error === undefined ? 'ok    ' : 'FAILED'} ${seconds} s  ${relative('', file)}\n`;
}

/** Its name and error in one line: those who see only an excerpt of the output may not see the end of it. */
function formatBrief({ name, details }: Completed): string {
  const { error } = details;
  const why = String(error?.cause ?? error).replaceAll(/\s+/g, ' ');
  return `          ${name.trim()}: ${why.slice(0, 300)}\n`;
}

function formatFailure(names: readonly string[], { file = '', details }: Failed): string {
  const title = names.map((name) => name.trim()).join(' > ');
  const error = inspect(details.error.cause ?? details.error);
  return `${title}\n   ${relative('', file)}\n${indent(error)}`;
}

function indent(text: string): string {
  return text
    .trimEnd()
    .replace(/^(?=.)/gm, '   ')
    .concat('\n');
}

function addTotal(totals: Totals, message: string): void {
  const [name = '', value] = message.split(' ');
  totals.set(name, Number(value));
}

function formatTotals(totals: Totals): string {
  const count = (name: string) => totals.get(name) ?? 0;
  const failed = count('fail') + count('cancelled');
  const seconds = Math.round(count('duration_ms') / 1000);
  return `${count('tests')} tests: ${count('pass')} passed, ${failed} failed, ${count('skipped')} skipped, in ${seconds} s\n`;
}
