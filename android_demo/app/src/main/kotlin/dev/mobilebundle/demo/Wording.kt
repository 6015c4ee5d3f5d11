package dev.mobilebundle.demo

import android.content.Context
import dev.mobilebundle.lm.ImportError
import dev.mobilebundle.lm.MemoryFit
import dev.mobilebundle.lm.ModelError
import dev.mobilebundle.lm.Role
import java.util.Locale

/** "26 MB", "1.4 GB": decimal, in the user's way to write numbers. */
fun byteText(bytes: Long): String = when {
    bytes >= 1_000_000_000 -> String.format(Locale.getDefault(), "%.1f GB", bytes / 1e9)
    bytes >= 10_000_000 -> String.format(Locale.getDefault(), "%.0f MB", bytes / 1e6)
    else -> String.format(Locale.getDefault(), "%.1f MB", bytes / 1e6)
}

/** "1.5 B", "6.3 M". */
fun countText(count: Long): String =
    if (count >= 1_000_000_000) numberText(count / 1e9, 1) + " B" else numberText(count / 1e6, 1) + " M"

fun numberText(value: Double, decimals: Int): String = String.format(Locale.getDefault(), "%.${decimals}f", value)

/** "About 3 minutes left", of what [TimeLeft] says. */
fun Context.timeLeftText(minutes: Int): String = when {
    minutes <= 1 -> getString(R.string.left_soon)
    minutes < MINUTES_PER_HOUR -> getString(R.string.left_minutes, minutes)
    else -> getString(R.string.left_hours, (minutes + MINUTES_PER_HOUR - 1) / MINUTES_PER_HOUR)
}

/** What a fit check says, with its reason. */
fun Context.describe(fit: MemoryFit): String = when (fit.verdict) {
    MemoryFit.Verdict.FITS -> getString(R.string.fit_fits, byteText(fit.neededBytes))
    MemoryFit.Verdict.TIGHT -> getString(R.string.fit_tight, byteText(fit.neededBytes), byteText(fit.availableBytes))
    MemoryFit.Verdict.TOO_LARGE -> getString(R.string.fit_too_large, byteText(fit.neededBytes), byteText(fit.limitBytes))
}

/** An error in the user's language, with what to do. What the runner said of it, in English, is its `detail`. */
fun Context.describe(error: ModelError): String = when (error) {
    is ModelError.DoesNotFit ->
        getString(R.string.error_does_not_fit, byteText(error.fit.neededBytes), byteText(error.fit.limitBytes))
    is ModelError.NotOpen -> getString(R.string.error_not_open)
    is ModelError.Busy -> getString(R.string.error_busy)
    is ModelError.StillAnswering -> getString(R.string.error_still_answering)
    is ModelError.BundleDamaged -> getString(R.string.error_damaged)
    is ModelError.BundleUnreadable -> getString(R.string.error_unreadable)
    is ModelError.OutOfMemory -> getString(R.string.error_out_of_memory)
    is ModelError.BadRequest, is ModelError.StateRefused -> getString(R.string.error_request)
    is ModelError.RunnerMissing -> getString(R.string.error_runner_missing)
    is ModelError.RunnerDied ->
        if (error.signal == SIGKILL) getString(R.string.error_killed) else getString(R.string.error_died)
    is ModelError.WasReleased -> getString(R.string.status_released)
}

/** Why an import ended without a model. */
fun Context.describe(error: ImportError): String = when (error) {
    is ImportError.NotABundle -> getString(R.string.import_error_not_a_bundle)
    is ImportError.Damaged -> getString(R.string.import_error_damaged, error.part)
    is ImportError.DoesNotFit ->
        getString(R.string.fit_too_large, byteText(error.fit.neededBytes), byteText(error.fit.limitBytes))
    is ImportError.DiskFull ->
        getString(R.string.import_error_disk_full, byteText(error.neededBytes), byteText(error.freeBytes))
    is ImportError.Unreadable -> getString(R.string.import_error_unreadable)
    is ImportError.NotInstalled -> describe(error.error)
    is ImportError.Stopped -> getString(R.string.import_error_stopped)
}

/** A conversation as a text to be shared; [model] names who answered. */
fun Context.transcript(turns: List<Turn>, model: String): String = turns.joinToString("\n\n") { turn ->
    val who = if (turn.role == Role.USER) getString(R.string.you) else model
    "$who:\n${turn.text.trim()}"
}

private const val SIGKILL = 9
private const val MINUTES_PER_HOUR = 60
