package dev.mobilebundle.demo

import android.graphics.Color
import org.junit.Assert.assertTrue
import org.junit.Test
import org.robolectric.RuntimeEnvironment

/** What can be read by whoever sees less: the contrasts that WCAG 2.2 asks for (1.4.3 of text, 1.4.11 of fields). */
class ColorsTest : AppTest() {
    private fun ratio(one: Int, other: Int): Double {
        val lights = listOf(one, other).map { Color.luminance(app.getColor(it)).toDouble() }.sorted()
        return (lights[1] + 0.05) / (lights[0] + 0.05)
    }

    @Test
    fun contrasts() {
        val text = listOf(
            R.color.text to R.color.background, R.color.text to R.color.surface, R.color.text to R.color.surface_variant, R.color.text to R.color.code,
            R.color.text_muted to R.color.background, R.color.text_muted to R.color.surface, R.color.primary to R.color.background,
            R.color.primary to R.color.surface, R.color.primary to R.color.surface_variant, R.color.on_primary to R.color.primary,
            R.color.on_primary_container to R.color.primary_container, R.color.on_warning_container to R.color.warning_container,
            R.color.on_error_container to R.color.error_container, R.color.error to R.color.surface,
            R.color.on_disabled to R.color.disabled,
        )
        val edges = listOf(R.color.outline to R.color.background, R.color.outline to R.color.surface)
        for (theme in listOf("notnight", "night")) {
            RuntimeEnvironment.setQualifiers("+$theme")
            for ((ink, ground) in text) check(theme, ink, ground, 4.5)
            for ((edge, ground) in edges) check(theme, edge, ground, 3.0)
        }
    }

    private fun check(theme: String, one: Int, other: Int, least: Double) {
        val names = listOf(one, other).map { app.resources.getResourceEntryName(it) }
        assertTrue("$theme: $names have ${ratio(one, other)} : 1", ratio(one, other) >= least)
    }
}
