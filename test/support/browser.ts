/** A real browser, Debian's chromium or the one at CHROMIUM_PATH. Tests that need it skip, and say so, without one. */
import { existsSync } from 'node:fs';
import { type Browser, chromium } from 'playwright-core';

const executablePath = process.env.CHROMIUM_PATH ?? '/usr/bin/chromium';

/** Why tests in a browser are skipped; empty where they run. */
export const browserMissing = existsSync(executablePath) ? '' : `there is no chromium at ${executablePath}`;
if (browserMissing) process.stderr.write(`skipping tests in a browser: ${browserMissing}\n`);

export const openBrowser = (): Promise<Browser> => chromium.launch({ executablePath, args: ['--no-sandbox'] });
