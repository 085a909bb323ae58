/** Parsers of option values. */
import { InvalidArgumentError } from 'commander';

/** For options that may be given several times. */
export const collect = (value: string, previous: string[] = []): string[] => [...previous, value];

/** A whole number in a range. */
export const wholeNumber = (option: string, min: number, max: number) => (value: string) => {
  const number = Number(value);
  if (value.trim() === '' || !Number.isInteger(number) || number < min || number > max)
    throw new InvalidArgumentError(`${option} takes a whole number from ${min} to ${max}.`);
  return number;
};

/** A finite number above 0. */
export const positiveNumber = (option: string) => (value: string) => {
  const number = Number(value);
  if (value.trim() === '' || !Number.isFinite(number) || number <= 0)
    throw new InvalidArgumentError(`${option} takes a number above 0.`);
  return number;
};

/** A finite number from 0 on. */
export const notNegative = (option: string) => (value: string) =>
  Number(value) === 0 ? 0 : positiveNumber(option)(value);
